package resourceid

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is the class of a defect. Its value is the second half of the rule's
// name in docs/validation-rules.md.
type Problem string

// The classes of defects. What a message says of each is in [Defect.Message].
const (
	Empty               Problem = "empty"
	TooLong             Problem = "too-long"
	WhiteSpace          Problem = "white-space"
	Quoted              Problem = "quoted"
	PercentEncoded      Problem = "percent-encoded"
	Backslash           Problem = "backslash"
	Prefixed            Problem = "prefixed"
	Suffixed            Problem = "suffixed"
	Query               Problem = "query"
	MissingLeadingSlash Problem = "missing-leading-slash"
	MissingSlash        Problem = "missing-slash"
	TrailingSlash       Problem = "trailing-slash"
	DoubleSlash         Problem = "double-slash"
	MissingSegment      Problem = "missing-segment"
	ExtraSegment        Problem = "extra-segment"
	Miscapitalised      Problem = "miscapitalised"
	Misspelt            Problem = "misspelt"
	WrongSegment        Problem = "wrong-segment"
	OtherType           Problem = "other-type"
	BadSubscription     Problem = "bad-subscription"
	BadResourceGroup    Problem = "bad-resource-group"
	BadName             Problem = "bad-name"
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
	return slices.ContainsFunc(e.Defects, func(d Defect) bool { return d.Problem == p })
}

// OnlyMiscapitalised reports whether the ID has no other defect than the
// capitalisation of fixed segments. The suggestion then names the same Azure
// resource, and differs from the ID in these segments alone.
func (e *Error) OnlyMiscapitalised() bool {
	return e.Suggestion != "" && !slices.ContainsFunc(e.Defects, func(d Defect) bool { return d.Problem != Miscapitalised })
}
