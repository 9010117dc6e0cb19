package resourceid

import (
	"fmt"
	"strings"
)

// Problem is the class of a defect.
type Problem string

// The classes of defects. What a message says of each is in [Defect.Message].
const (
	Empty               Problem = "Empty"
	TooLong             Problem = "TooLong"
	WhiteSpace          Problem = "WhiteSpace"
	Quoted              Problem = "Quoted"
	PercentEncoded      Problem = "PercentEncoded"
	Backslash           Problem = "Backslash"
	Prefixed            Problem = "Prefixed"
	Query               Problem = "Query"
	MissingLeadingSlash Problem = "MissingLeadingSlash"
	MissingSlash        Problem = "MissingSlash"
	TrailingSlash       Problem = "TrailingSlash"
	DoubleSlash         Problem = "DoubleSlash"
	MissingSegment      Problem = "MissingSegment"
	ExtraSegment        Problem = "ExtraSegment"
	Miscapitalised      Problem = "Miscapitalised"
	Misspelt            Problem = "Misspelt"
	WrongSegment        Problem = "WrongSegment"
	OtherType           Problem = "OtherType"
	BadSubscription     Problem = "BadSubscription"
	BadResourceGroup    Problem = "BadResourceGroup"
	BadName             Problem = "BadName"
)

// Defect is one thing wrong with an ID.
type Defect struct {
	// Problem is the class of the defect.
	Problem Problem
	// Segment is the part of the ID as it was written; empty if the defect
	// concerns the ID as a whole.
	Segment string
	// Message says what is wrong and, for a part that has one, the right
	// spelling.
	Message string
}

// Error lists what is wrong with a resource ID.
type Error struct {
	// ID as it was given.
	ID string
	// Defects in the order of the ID; at least one.
	Defects []Defect
	// Suggestion is the corrected ID; empty if there is no or more than one
	// correction. It always parses.
	Suggestion string
}

// Error returns the classic text of the 1.8 releases, followed by the defects
// and the suggestion. The capital letter is theirs: people and tools look for
// it in the log.
func (e *Error) Error() string {
	text := fmt.Sprintf("Invalid resource id: %q, must match %s", clip(e.ID), Pattern)
	if e.Has(Empty) {
		return text
	}
	return text + ": " + e.Detail()
}

// Detail lists the defects and the suggestion, without the ID.
func (e *Error) Detail() string {
	messages := make([]string, 0, len(e.Defects)+1)
	for _, d := range e.Defects {
		messages = append(messages, d.Message)
	}
	if e.Suggestion != "" {
		messages = append(messages, fmt.Sprintf("use %q", e.Suggestion))
	}
	return strings.Join(messages, "; ")
}

// Has reports whether one of the defects is of the class p.
func (e *Error) Has(p Problem) bool {
	for _, d := range e.Defects {
		if d.Problem == p {
			return true
		}
	}
	return false
}
