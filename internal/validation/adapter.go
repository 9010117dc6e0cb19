package validation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-playground/validator/v10"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// structRules is the adapter of go-playground/validator: it compiles our tags
// and struct rules, and speaks of findings as field errors with JSON paths.
type structRules struct {
	validate *validator.Validate
}

func newStructRules() (*structRules, error) {
	validate := validator.New(validator.WithRequiredStructEnabled())
	validate.RegisterTagNameFunc(jsonName)
	for tag, rule := range fieldRules {
		err := validate.RegisterValidation(tag, func(f validator.FieldLevel) bool {
			return rule(f.Field().Interface()) == fault{}
		})
		if err != nil {
			return nil, fmt.Errorf("registering validation rule %s: %w", tag, err)
		}
	}
	validate.RegisterStructValidationMapRules(identityRules, v1.AzureIdentitySpec{})
	validate.RegisterStructValidationMapRules(secretRules, v1.SecretReference{})
	validate.RegisterStructValidationMapRules(bindingRules, v1.AzureIdentityBindingSpec{})
	validate.RegisterStructValidationMapRules(exceptionRules, v1.AzurePodIdentityExceptionSpec{})
	return &structRules{validate}, nil
}

// check applies the struct rules to the struct that stands under path.
func (r *structRules) check(path *field.Path, s any) field.ErrorList {
	err := r.validate.Struct(s)
	if err == nil {
		return nil
	}
	var broken validator.ValidationErrors
	if !errors.As(err, &broken) {
		return field.ErrorList{field.InternalError(path, err).WithOrigin(RuleUnreadable)}
	}
	var findings field.ErrorList
	for _, b := range broken {
		// The namespace begins with the name of the Go type, then come JSON names.
		_, below, _ := strings.Cut(b.Namespace(), ".")
		rule, ok := fieldRules[b.Tag()]
		if !ok {
			findings = append(findings, field.Invalid(path.Child(below), b.Value(), "cannot be read").WithOrigin(RuleUnreadable))
			continue
		}
		found := rule(b.Value())
		findings = append(findings, field.Invalid(path.Child(below), b.Value(), found.detail).WithOrigin(found.rule))
	}
	return findings
}
