package image

import "context"

// Program builds a static binary of a main package of the root module, given as
// a path relative to the source root ("./test/azure/emulator"), and returns its
// path in the cache.
func (b *Builder) Program(ctx context.Context, goPackage string) (string, error) {
	paths, err := b.binaries(ctx, []Spec{{GoPackage: goPackage}})
	if err != nil {
		return "", err
	}
	return paths[0], nil
}
