package resourceid

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/internal/spelling"
)

// diagnosis collects the defects of one ID while it is being taken apart.
type diagnosis struct {
	defects []Defect
	// lost is set by a defect whose correction is not known.
	lost bool
}

// fixable records a defect that the caller corrects.
func (d *diagnosis) fixable(p Problem, segment, format string, a ...any) {
	d.defects = append(d.defects, Defect{Problem: p, Segment: clip(segment), Message: fmt.Sprintf(format, a...)})
}

// fatal records a defect that only the user can correct.
func (d *diagnosis) fatal(p Problem, segment, format string, a ...any) {
	d.fixable(p, segment, format, a...)
	d.lost = true
}

// diagnose says what is wrong with an ID that does not match.
func diagnose(id string) *Error {
	d := &diagnosis{}
	suggestion := ""
	switch {
	case id == "":
		d.fatal(Empty, "", "is empty")
	case len(id) > maxLength:
		d.fatal(TooLong, "", "has %d bytes, at most %d are allowed", len(id), maxLength)
	default:
		if segments := d.segments(d.unwrap(id)); segments != nil {
			suggestion = "/" + strings.Join(segments, "/")
		}
	}
	// The rule has the last word: only what passes it is proposed. A strict
	// Parse refuses a superset of what ParseAnyCase refuses, so an ID can get
	// here without a defect only if this file forgot one.
	if _, ok := match(suggestion, false); !ok || d.lost {
		suggestion = ""
	}
	if len(d.defects) == 0 {
		d.fatal(WrongSegment, "", "does not match")
	}
	return &Error{ID: id, Defects: d.defects, Suggestion: suggestion}
}

const (
	quotes = "\"'`“”‘’„«»"
	// punctuation is what may follow an ID in the text that it was copied from.
	// No name of an identity ends in any of it.
	punctuation = ",;."
	// maxDecodings bounds how often percent-encoding is undone: some tools encode
	// what is encoded already.
	maxDecodings = 3
)

// unwrap removes what surrounds or encodes an ID that was copied from
// somewhere: white space, quotes, percent-encoding, host name, query.
func (d *diagnosis) unwrap(id string) string {
	s := strings.TrimFunc(id, isSpace)
	if s != id {
		d.fixable(WhiteSpace, "", "white space around the ID")
	}
	if t := strings.Trim(s, quotes); t != s {
		d.fixable(Quoted, "", "quotes are part of the ID")
		s = strings.TrimFunc(t, isSpace)
	}
	s = d.decode(s)
	if strings.Contains(s, `\`) {
		d.fixable(Backslash, "", `backslash in place of a slash`)
		s = strings.ReplaceAll(s, `\`, "/")
	}
	// A resource group may be called subscriptions, too.
	first, _, _ := strings.Cut(strings.TrimLeft(s, "/"), "/")
	if i := indexFold(s, "/subscriptions/"); i > 0 && first != "" && !isFixed(segSubscriptions, first) {
		d.fixable(Prefixed, s[:i], "%q before /subscriptions", clip(s[:i]))
		s = s[i:]
	}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		d.fixable(Query, s[i:], "%q is no part of an ID", clip(s[i:]))
		s = s[:i]
	}
	if t := strings.TrimRight(s, quotes+punctuation); t != s {
		d.fixable(Suffixed, s[len(t):], "%q after the ID", clip(s[len(t):]))
		s = strings.TrimFunc(t, isSpace)
	}
	return s
}

// decode undoes percent-encoding.
func (d *diagnosis) decode(s string) string {
	for i := 0; i < maxDecodings && strings.Contains(s, "%"); i++ {
		t, err := url.PathUnescape(s)
		if err != nil {
			d.fatal(PercentEncoded, "", "percent-encoded, and not decodable")
			return s
		}
		if i == 0 {
			d.fixable(PercentEncoded, "", "percent-encoded")
		}
		s = t
	}
	return s
}

// segments takes the cleaned ID apart and returns its corrected segments; nil
// if there is no correction.
func (d *diagnosis) segments(s string) []string {
	if s == "" {
		d.fatal(Empty, "", "is empty")
		return nil
	}
	if t := strings.TrimPrefix(s, "/"); t != s {
		s = t
	} else {
		d.fixable(MissingLeadingSlash, "", "no slash at the beginning")
	}
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		t := strings.TrimFunc(segment, isSpace)
		if strings.ContainsFunc(t, isInvisible) {
			t = strings.Map(dropInvisible, t)
		}
		if t != segment {
			d.fixable(WhiteSpace, segment, "white space in segment %q", clip(segment))
			segments[i] = t
		}
	}
	if !onlyValuesEmpty(segments) {
		segments = d.compact(segments)
	}
	switch {
	case len(segments) == segmentCount:
		return d.align(segments)
	case len(segments) > segmentCount:
		if whole := d.head(segments); whole != nil {
			return whole
		}
	default:
		if whole := d.complete(segments); whole != nil {
			return whole
		}
	}
	d.misfit(segments)
	return nil
}

// onlyValuesEmpty reports whether the segments are eight of which at most values
// are empty, as a template leaves them. Any other empty segment is a slash too
// many.
func onlyValuesEmpty(segments []string) bool {
	if len(segments) != segmentCount {
		return false
	}
	if !slices.Contains(segments, "") {
		return true
	}
	for i, segment := range segments {
		if fixed[i] != "" && !isFixed(i, segment) {
			return false
		}
	}
	return true
}

// compact drops empty segments.
func (d *diagnosis) compact(segments []string) []string {
	if n := len(segments); n > 1 && segments[n-1] == "" {
		d.fixable(TrailingSlash, "", "slash at the end")
	}
	for n := len(segments); n > 0 && segments[n-1] == ""; n-- {
		segments = segments[:n-1]
	}
	kept := make([]string, 0, len(segments))
	for _, segment := range segments {
		if segment != "" {
			kept = append(kept, segment)
		}
	}
	if len(kept) != len(segments) {
		d.fixable(DoubleSlash, "", "two slashes in a row")
	}
	return kept
}

// head finds the identity in an ID that goes on after it: that of a child
// resource, or of a page of the portal. It returns nil, and records nothing,
// unless the first eight segments are an ID, and the only one.
func (d *diagnosis) head(segments []string) []string {
	rest := segments[segmentCount:]
	if slices.ContainsFunc(rest, func(s string) bool { return isFixed(segSubscriptions, s) }) {
		return nil
	}
	var how diagnosis
	whole := how.align(segments[:segmentCount])
	if _, ok := match("/"+strings.Join(whole, "/"), false); !ok || how.lost {
		return nil
	}
	d.defects = append(d.defects, how.defects...)
	extra := "/" + strings.Join(rest, "/")
	d.fixable(ExtraSegment, extra, "%q is too much", clip(extra))
	return whole
}

// align checks eight segments each against its place and returns them
// corrected.
func (d *diagnosis) align(segments []string) []string {
	out := make([]string, segmentCount)
	copy(out, segments)
	if isOtherType(segments[segProvider], segments[segType]) {
		d.otherType(segments[segProvider] + "/" + segments[segType])
	}
	for i, segment := range segments {
		switch i {
		case segSubscription:
			if !IsGUID(segment) {
				if guid := RepairGUID(segment); guid != "" {
					d.fixable(BadSubscription, segment, "subscription %q is not a GUID", clip(segment))
					out[i] = guid
				} else if segment == "" {
					d.fatal(BadSubscription, segment, "subscription is empty, must be a GUID")
				} else {
					d.fatal(BadSubscription, segment, "subscription %q is not a GUID", clip(segment))
				}
			}
		case segGroup:
			if p := groupProblem(segment); p != "" {
				d.fatal(BadResourceGroup, segment, "resource group %s%s", named(segment), p)
			}
		case segName:
			if p := nameProblem(segment); p != "" {
				d.fatal(BadName, segment, "identity name %s%s", named(segment), p)
			}
		default:
			out[i] = d.fixedSegment(i, segment)
		}
	}
	return out
}

// named puts a value before what is said of it; an empty one is not printed.
func named(segment string) string {
	if segment == "" {
		return ""
	}
	return fmt.Sprintf("%q ", clip(segment))
}

// fixedSegment checks a segment that is the same in every ID and returns the
// right spelling.
func (d *diagnosis) fixedSegment(i int, segment string) string {
	want := fixed[i]
	bare := strings.Map(dropSpace, segment)
	switch {
	case segment == want, i == segGroups && segment == portalGroups:
		return segment
	case bare != segment && (bare == want || i == segGroups && bare == portalGroups):
		d.fixable(WhiteSpace, segment, "white space in segment %q", clip(segment))
		return bare
	case equalFoldASCII(segment, want):
		if i == segGroups {
			d.fixable(Miscapitalised, segment, "segment %q is miscapitalised, use %q or %q", segment, want, portalGroups)
		} else {
			d.fixable(Miscapitalised, segment, "segment %q is miscapitalised, use %q", segment, want)
		}
	case spelling.IsTypo(segment, want):
		d.fixable(Misspelt, segment, "segment %q is misspelt, use %q", segment, want)
	case i == segProvider || i == segType:
		// isOtherType has said it for the two together.
	case segment == "":
		d.fatal(MissingSegment, segment, "segment %q is missing", want)
	default:
		d.fatal(WrongSegment, segment, "segment %q must be %q", clip(segment), want)
	}
	return want
}

func (d *diagnosis) otherType(typ string) {
	d.fatal(OtherType, typ, "resource type %q must be %q", clip(typ), ExpectedType)
}

// isOtherType reports whether provider and type cannot be meant as those of a
// user-assigned identity.
func isOtherType(provider, typ string) bool {
	return !isFixed(segProvider, provider) || !isFixed(segType, typ)
}

// isFixed reports whether the segment is, apart from capitalisation and typing
// mistakes, the fixed one of place i.
func isFixed(i int, segment string) bool {
	return fixed[i] != "" && (equalFoldASCII(segment, fixed[i]) || spelling.IsTypo(segment, fixed[i]))
}
