// Package charts embeds what the program must know of the Helm chart: the CRDs,
// which a hook of the chart applies, since Helm itself never upgrades them.
package charts

import (
	"embed"
	"fmt"
	"path"
)

//go:embed aad-pod-identity/crds/*.yaml
var crds embed.FS

// crdFolder is where the chart keeps its CRDs.
const crdFolder = "aad-pod-identity/crds"

// CRDs returns the YAML of the CustomResourceDefinitions, one document each, in the
// order of their file names.
func CRDs() ([][]byte, error) {
	entries, err := crds.ReadDir(crdFolder)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded CRDs: %w", err)
	}
	docs := make([][]byte, 0, len(entries))
	for _, e := range entries {
		doc, err := crds.ReadFile(path.Join(crdFolder, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the embedded CRD %s: %w", e.Name(), err)
		}
		docs = append(docs, doc)
	}
	return docs, nil
}
