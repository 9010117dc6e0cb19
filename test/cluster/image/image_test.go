package image

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// testSource is a source tree with one tiny program.
func testSource(t *testing.T) *Builder {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.com/tiny\n\ngo 1.24\n")
	write("tiny/main.go", "package main\n\nvar version = \"none\"\n\nfunc main() { println(version) }\n")
	write("other/tiny/main.go", "package main\n\nfunc main() { println(\"other\") }\n")
	return &Builder{SourceDir: dir, CacheDir: t.TempDir()}
}

func build(t *testing.T, b *Builder, spec Spec) v1.Image {
	t.Helper()
	img, err := b.Build(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func entries(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	found := map[string]*tar.Header{}
	r := mutate.Extract(img)
	defer func() { _ = r.Close() }()
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found["/"+strings.Trim(h.Name, "/")] = h
	}
}

func TestAnImageIsReproducible(t *testing.T) {
	b := testSource(t)
	spec := Spec{Name: "example.com/tiny:v1", GoPackage: "./tiny", Files: []File{{Path: "/etc/a", Content: []byte("a")}, {Path: "/b", Link: "etc/a"}}}
	first := build(t, b, spec)
	b.CacheDir = t.TempDir()
	spec.Files = []File{spec.Files[1], spec.Files[0]}
	second := build(t, b, spec)
	if digest(t, first) != digest(t, second) {
		t.Error("the same inputs, built in another directory and listed in another order, gave another digest")
	}
	spec.LDFlags = "-X main.version=v2"
	if digest(t, build(t, b, spec)) == digest(t, first) {
		t.Error("another version stamp gave the same digest")
	}
}

func TestWhatIsInAnImage(t *testing.T) {
	img := build(t, testSource(t), Spec{Name: "example.com/tiny:v1", GoPackage: "./tiny", Cmd: []string{"serve"}, Env: []string{"A=b"}})
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config; !slices.Equal(got.Entrypoint, []string{"/tiny"}) || !slices.Equal(got.Cmd, []string{"serve"}) || got.User != NonRoot || !slices.Contains(got.Env, "A=b") {
		t.Errorf("configuration %+v", got)
	}
	files := entries(t, img)
	if h := files["/tiny"]; h == nil || h.Mode != 0o755 {
		t.Errorf("the binary is %+v", h)
	}
	if h := files["/tmp"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("/tmp is %+v", h)
	}
	for name, h := range files {
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s has time %s and owner %d:%d", name, h.ModTime, h.Uid, h.Gid)
		}
	}
}

func TestTwoBinariesOfOneNameDoNotClash(t *testing.T) {
	b := testSource(t)
	specs := []Spec{{Name: "a:1", GoPackage: "./tiny"}, {Name: "b:1", GoPackage: "./other/tiny"}, {Name: "c:1", GoPackage: "./tiny", User: "0:0"}}
	paths, err := b.binaries(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	if paths[0] == paths[1] || paths[0] != paths[2] {
		t.Errorf("paths %q", paths)
	}
	for i, want := range []string{"none", "other"} {
		out, err := exec.CommandContext(t.Context(), paths[i]).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s printed %q (%v), want %q", paths[i], out, err, want)
		}
	}
}

func TestAPinnedModuleIsBuiltAgainOnlyWhenItChanges(t *testing.T) {
	b := testSource(t)
	builds := 0
	b.Step = func(string) func(error) { builds++; return func(error) {} }
	spec := Spec{Name: "a:1", GoPackage: "./tiny", Pinned: true}
	build(t, b, spec)
	build(t, b, spec)
	if builds != 1 {
		t.Errorf("%d builds of an unchanged module", builds)
	}
	if err := os.WriteFile(filepath.Join(b.SourceDir, "tiny", "more.go"), []byte("package main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build(t, b, spec)
	if builds != 2 {
		t.Errorf("%d builds after a change, want 2", builds)
	}
}

func TestABrokenProgramIsReported(t *testing.T) {
	b := testSource(t)
	if err := os.WriteFile(filepath.Join(b.SourceDir, "tiny", "main.go"), []byte("package main\nfunc main() { undefined() }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := b.Build(t.Context(), Spec{Name: "a:1", GoPackage: "./tiny"})
	if err == nil || !strings.Contains(err.Error(), "undefined") {
		t.Errorf("got %v, want the compiler's message", err)
	}
}

func TestDebianFilesBringTheirLibraries(t *testing.T) {
	if exec.CommandContext(t.Context(), "dpkg-query", "--status", "iptables").Run() != nil {
		t.Skip("the Debian package iptables is not installed")
	}
	img := build(t, testSource(t), Spec{Name: "a:1", DebianPackages: []string{"iptables"}})
	files := entries(t, img)
	for _, want := range []string{"/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi", "/usr/sbin/iptables", "/usr/sbin/iptables-save", "/usr/sbin/ip6tables"} {
		if files[want] == nil {
			t.Errorf("%s is missing", want)
		}
	}
	libc, extension := false, false
	for name, h := range files {
		libc = libc || filepath.Base(name) == "libc.so.6"
		extension = extension || strings.HasSuffix(name, "/xtables/libxt_tcp.so") || strings.HasSuffix(name, "/xtables/libxt_standard.so")
		if strings.HasPrefix(name, "/usr/share/man/") || strings.HasPrefix(name, "/usr/share/doc/") {
			t.Errorf("%s is for people", name)
		}
		if h.Typeflag == tar.TypeSymlink && strings.HasPrefix(h.Linkname, "/etc/alternatives/") {
			t.Errorf("%s leads to %s, which is not in the image", name, h.Linkname)
		}
	}
	if !libc || !extension {
		t.Errorf("libc: %t, iptables' extensions: %t", libc, extension)
	}
	if _, err := testSource(t).Build(t.Context(), Spec{Name: "a:1", DebianPackages: []string{"no-such-package"}}); err == nil {
		t.Error("a package that is not installed was accepted")
	}
}

func TestParseLDD(t *testing.T) {
	const text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
	libraries := []string{"/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"}
	for name, tt := range map[string]struct {
		text, err string
		want      []string
	}{
		"one file":          {text: text, want: libraries},
		"several files":     {text: "/usr/sbin/a:\n" + text + "/usr/lib/b.so:\n" + text, want: append(slices.Clone(libraries), libraries...)},
		"a missing library": {text: "/usr/sbin/a:\n" + text + "/usr/lib/b.so:\n\tlibmissing.so.1 => not found\n", err: "/usr/lib/b.so: libmissing.so.1 => not found"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseLDD(tt.text)
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v, want %q, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestArchiveRefusesPaths(t *testing.T) {
	for name, path := range map[string]string{"a relative path": "etc/x", "a path that climbs": "/etc/../x", "a trailing slash": "/etc/"} {
		t.Run(name, func(t *testing.T) {
			if _, err := archive([]File{{Path: path}}); err == nil {
				t.Errorf("%s was accepted", path)
			}
		})
	}
}

func TestSpecsOfTheProduct(t *testing.T) {
	var names []string
	for _, s := range Product(DefaultRepository, "v1.9.0", "") {
		names = append(names, s.Name)
	}
	want := []string{
		"mcr.microsoft.com/oss/azure/aad-pod-identity/webhook:v1.9.0",
		"mcr.microsoft.com/oss/azure/aad-pod-identity/mic:v1.9.0",
		"mcr.microsoft.com/oss/azure/aad-pod-identity/nmi:v1.9.0",
	}
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}
