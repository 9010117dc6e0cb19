// Package validation says what is wrong with an object of this API group. The
// webhook asks it about what users write, MIC about what is stored: objects of
// older releases, or written while the webhook was down, can be invalid.
//
// [Validator.Raw] judges an object as it was written. Conversion into the Go type
// comes last there, because the misspelt names it would drop are what users most
// need to hear about: names are compared with those of the Go types, then JSON
// types, then the rules of the kind apply. All findings come in one answer, each
// with its JSON path and, as its origin, the rule behind it. [Validator.Judge]
// also knows of updates, which are not judged by what they leave alone, of
// warnings, and of the policy about the capitalisation of resource IDs.
//
// [Rules] is the table of all rules; docs/validation-rules.md is made from it.
//
// The rules of single fields are struct rules of go-playground/validator with
// the tags of rules.go; adapter.go turns its errors into field errors, and no
// other package knows that library. Rules that concern several fields are plain
// Go.
//
// The package is pure: it calls nobody and keeps nothing but compiled rules.
package validation
