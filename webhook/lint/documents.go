package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// document is one YAML document or JSON value of a file.
type document struct {
	text []byte
	// line and column of the file where the text begins, from 1.
	line, column int
	// json is set if the text is JSON, which is YAML but for a few escapes.
	json bool
}

// split takes a file apart as kubectl does: JSON values follow one another, YAML
// documents are separated by lines that begin with three dashes.
func split(text []byte) []document {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		if docs, ok := splitJSON(text); ok {
			return docs
		}
	}
	var docs []document
	start, startLine, line := 0, 1, 0
	add := func(end int) {
		if doc := text[start:end]; len(bytes.TrimSpace(doc)) > 0 {
			docs = append(docs, document{text: doc, line: startLine, column: 1})
		}
	}
	for at := 0; at < len(text); {
		line++
		end := len(text)
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if rest, ok := bytes.CutPrefix(text[at:end], []byte("---")); ok {
			if rest = bytes.TrimSpace(rest); len(rest) == 0 || rest[0] == '#' {
				add(at)
				start, startLine = end, line+1
			}
		}
		at = end
	}
	add(len(text))
	return docs
}

func splitJSON(text []byte) ([]document, bool) {
	var docs []document
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var value json.RawMessage
		if err := decoder.Decode(&value); errors.Is(err, io.EOF) {
			return docs, true
		} else if err != nil {
			return nil, false // may still be YAML, of which JSON is a part
		}
		before := text[:int(decoder.InputOffset())-len(value)]
		docs = append(docs, document{
			text: value, json: true,
			line:   1 + bytes.Count(before, []byte("\n")),
			column: len(before) - bytes.LastIndexByte(before, '\n'),
		})
	}
}

// syntaxError is why a document cannot be read.
type syntaxError struct {
	// line of the document, from 1.
	line int
	text string
}

// parse returns the document as JSON and with positions. Root is nil if the
// positions cannot be had.
func (d document) parse() (object []byte, root *yamlv3.Node, syntax *syntaxError) {
	object, err := d.text, error(nil)
	if !d.json {
		object, err = yaml.YAMLToJSON(d.text)
	}
	var doc yamlv3.Node
	decoder := yamlv3.NewDecoder(bytes.NewReader(d.text))
	positionErr := decoder.Decode(&doc)
	switch {
	case err != nil && positionErr != nil && !errors.Is(positionErr, io.EOF):
		return nil, nil, d.explain(d.locateError(positionErr))
	case err != nil:
		return nil, nil, d.explain(syntaxErrorOf(err))
	case positionErr != nil || len(doc.Content) != 1:
		return object, nil, nil
	}
	if line := rest(decoder); line > 0 {
		return nil, nil, &syntaxError{line, "a second document that no line '---' separates from the first: kubectl would not read it"}
	}
	return object, doc.Content[0], nil
}

// rest returns the line of what follows the first document; 0 if that is nothing.
func rest(decoder *yamlv3.Decoder) int {
	var more yamlv3.Node
	switch err := decoder.Decode(&more); {
	case errors.Is(err, io.EOF):
		return 0
	case err != nil:
		return syntaxErrorOf(err).line + 1 // such an error gives the line before
	default:
		return more.Line
	}
}

var lineInError = regexp.MustCompile(`^(?:.*: )?line (\d+): `)

// syntaxErrorOf takes the line out of an error of the YAML libraries.
func syntaxErrorOf(err error) *syntaxError {
	text, line := err.Error(), 1
	text = strings.TrimPrefix(text, "yaml: ")
	if m := lineInError.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			text, line = text[len(m[0]):], n
		}
	}
	return &syntaxError{line, text}
}

const (
	// parserError begins the errors for which the library gives the line before
	// the enclosing block instead of the line of the mistake.
	parserError = "did not find expected "
	// maxLocated bounds, in bytes, the documents that are parsed repeatedly to
	// find the line of a mistake.
	maxLocated = 1 << 20
)

// locateError finds the line of a mistake: the last one of the shortest
// beginning of the document that has the mistake.
func (d document) locateError(err error) *syntaxError {
	found := syntaxErrorOf(err)
	if !strings.HasPrefix(found.text, parserError) || len(d.text) > maxLocated {
		return found
	}
	lines := bytes.SplitAfter(d.text, []byte("\n"))
	found.line = 1 + sort.Search(len(lines)-1, func(i int) bool {
		beginning := bytes.Join(lines[:i+1], nil)
		err := yamlv3.Unmarshal(beginning, new(yamlv3.Node))
		return err != nil && syntaxErrorOf(err).text == found.text
	})
	return found
}

// explain completes the text of an error of the YAML libraries for people.
func (d document) explain(e *syntaxError) *syntaxError {
	e.text = "not valid YAML: " + e.text
	if bytes.Contains(d.text, []byte("{{")) {
		e.text += "; templates are not rendered: lint what 'helm template' prints"
	}
	return e
}

// inFile returns a line of the document as a line of the file.
func (d document) inFile(line int) int { return d.line + line - 1 }

// place is a position in a file, from 1.
type place struct{ line, column int }

// placeOf returns where a node stands in the file; the beginning of the document
// if there is no node.
func (d document) placeOf(n *yamlv3.Node) place {
	if n == nil {
		return place{d.line, d.column}
	}
	column := n.Column
	if n.Line == 1 {
		column += d.column - 1
	}
	return place{d.inFile(n.Line), column}
}
