// Command copies takes the rules of admission out of the copies of an AzureIdentity
// and an AzureIdentityBinding that the CRD of AzureAssignedIdentity embeds. "make
// generate" runs it after controller-gen, which gives a Go type the same schema
// wherever it stands: MIC could then not write an AzureAssignedIdentity for an object
// that was stored before there were rules.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"sigs.k8s.io/yaml"
)

// The properties of spec that are copies, and what is no rule but structure: it
// stays, so that a copy is still typed and keeps unknown fields.
var (
	copies    = []string{"azureIdentityRef", "azureBindingRef"}
	structure = []string{
		"additionalProperties", "description", "format", "items", "nullable", "properties", "type",
		"x-kubernetes-embedded-resource", "x-kubernetes-list-type", "x-kubernetes-preserve-unknown-fields",
	}
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "copies:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("the one argument is the file of the CRD")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("reading the CRD: %w", err)
	}
	if text, err = withoutRules(text); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if err := os.WriteFile(args[0], text, 0o644); err != nil {
		return fmt.Errorf("writing the CRD: %w", err)
	}
	return nil
}

// withoutRules returns the CRD with the rules taken out of the copies.
func withoutRules(crd []byte) ([]byte, error) {
	var object map[string]any
	if err := yaml.Unmarshal(crd, &object); err != nil {
		return nil, fmt.Errorf("parsing the CRD: %w", err)
	}
	versions, _ := at(object, "spec")["versions"].([]any)
	if len(versions) == 0 {
		return nil, errors.New("the CRD has no versions")
	}
	for _, v := range versions {
		version, _ := v.(map[string]any)
		spec := at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties")
		for _, name := range copies {
			schema := at(spec, name)
			if schema == nil {
				return nil, fmt.Errorf("spec has no %s", name)
			}
			delete(schema, "x-kubernetes-validations")
			strip(at(schema, "properties", "spec"))
		}
	}
	out, err := yaml.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encoding the CRD: %w", err)
	}
	return append([]byte("---\n"), out...), nil
}

// strip reduces a schema and those below it to their structure.
func strip(schema map[string]any) {
	if schema == nil {
		return
	}
	for key := range schema {
		if !slices.Contains(structure, key) {
			delete(schema, key)
		}
	}
	for _, property := range at(schema, "properties") {
		if property, ok := property.(map[string]any); ok {
			strip(property)
		}
	}
	strip(at(schema, "items"))
	strip(at(schema, "additionalProperties"))
}

// at returns the object at a path below another; nil if there is none.
func at(object map[string]any, path ...string) map[string]any {
	for _, name := range path {
		object, _ = object[name].(map[string]any)
	}
	return object
}
