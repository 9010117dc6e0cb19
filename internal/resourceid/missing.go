package resourceid

import (
	"slices"
	"strings"
)

// placeholders name the values in messages.
var placeholders = [segmentCount]string{
	segSubscription: "<subid>",
	segGroup:        "<resourcegroup>",
	segName:         "<name>",
}

// complete finds the slashes and fixed segments that fewer than eight segments
// lack. It returns nil, and records nothing, unless exactly one correction
// exists.
func (d *diagnosis) complete(segments []string) []string {
	s := search{missing: segmentCount - len(segments), inserted: segmentCount}
	s.from(0, segments, nil, diagnosis{}, 0)
	if len(s.found) != 1 {
		return nil
	}
	d.defects = append(d.defects, s.found[0].how.defects...)
	return s.found[0].whole
}

// search goes through all ways to read segments as an ID.
type search struct {
	// missing is how many segments there are too few.
	missing int
	// found are the readings that make a valid ID with the fewest insertions: a
	// slash that explains it all comes first, so that "rg-1providers" is not taken
	// for a resource group.
	found    []reading
	inserted int
}

// reading is a way to read segments as an ID.
type reading struct {
	whole []string
	how   diagnosis
}

// from reads the rest of the segments at place i and beyond; done holds the
// segments before, how what they lacked, and inserted how many of them were not
// there.
func (s *search) from(i int, rest, done []string, how diagnosis, inserted int) {
	lacking := len(how.defects)
	if i == segmentCount || len(rest) > segmentCount-i || inserted > s.inserted {
		if i == segmentCount && len(rest) == 0 {
			s.end(done, how, inserted)
		}
		return
	}
	if len(rest) > 0 && fits(i, rest[0]) {
		s.from(i+1, rest[1:], with(done, rest[0]), how, inserted)
	}
	if lacking == s.missing {
		return
	}
	if len(rest) > 0 {
		for _, at := range cuts(i, rest[0]) {
			left, right := rest[0][:at], rest[0][at:]
			next := how.clone()
			next.fixable(MissingSlash, rest[0], "no slash between %q and %q", clip(left), clip(right))
			s.from(i+1, slices.Concat([]string{right}, rest[1:]), with(done, left), next, inserted)
		}
	}
	if want := fixed[i]; want != "" {
		next := how.clone()
		next.fixable(MissingSegment, want, "segment %q is missing", want)
		s.from(i+1, rest, with(done, want), next, inserted+1)
	}
}

// end keeps a reading if it makes a valid ID.
func (s *search) end(done []string, how diagnosis, inserted int) {
	how = how.clone()
	whole := how.align(done)
	if _, ok := match("/"+strings.Join(whole, "/"), false); !ok || how.lost {
		return
	}
	if inserted < s.inserted {
		s.found, s.inserted = nil, inserted
	}
	if !slices.ContainsFunc(s.found, func(r reading) bool { return slices.Equal(r.whole, whole) }) {
		s.found = append(s.found, reading{whole, how})
	}
}

// fits reports whether a segment can stand at place i. Where segments are
// missing, one that looks like a fixed segment is not taken for a value: what is
// missing is the value then.
func fits(i int, segment string) bool {
	if fixed[i] != "" {
		return isFixed(i, segment)
	}
	for f := range fixed {
		if isFixed(f, segment) {
			return false
		}
	}
	return true
}

func with(done []string, segment string) []string {
	return append(slices.Clip(done), segment)
}

func (d *diagnosis) clone() diagnosis {
	return diagnosis{defects: slices.Clone(d.defects), lost: d.lost}
}

// cuts returns where a segment at place i could be two that lack the slash
// between them: after the fixed segment of place i, or before that of the next.
func cuts(i int, segment string) []int {
	if i == segName {
		return nil
	}
	var at []int
	if want := fixed[i]; want != "" && len(segment) > len(want) && equalFoldASCII(segment[:len(want)], want) {
		at = append(at, len(want))
	}
	if want := fixed[i+1]; want != "" && len(segment) > len(want) && equalFoldASCII(segment[len(segment)-len(want):], want) {
		at = append(at, len(segment)-len(want))
	}
	return at
}

// misfit says which segments are missing or too many when there are not eight.
func (d *diagnosis) misfit(segments []string) {
	if i := slices.IndexFunc(segments, func(s string) bool { return isFixed(segProviders, s) }); i >= 0 && i+2 < len(segments) && isOtherType(segments[i+1], segments[i+2]) {
		d.otherType(segments[i+1] + "/" + segments[i+2])
		return
	}
	missing, rest := fit(segments)
	for _, m := range missing {
		d.fatal(MissingSegment, m, "%q is missing", m)
	}
	if len(rest) > 0 {
		extra := "/" + strings.Join(rest, "/")
		d.fatal(ExtraSegment, extra, "%q is too much", clip(extra))
	}
}

// fit lays the segments along the pattern from left to right. It returns the
// stretches of the pattern that nothing was found for, and the segments that
// found no place.
func fit(segments []string) (missing, rest []string) {
	var stretch []string
	flush := func() {
		if len(stretch) > 0 {
			missing = append(missing, "/"+strings.Join(stretch, "/"))
			stretch = nil
		}
	}
	next := 0
	for i, want := range fixed {
		var found bool
		if want != "" {
			// A fixed segment may stand further on, behind what has no place.
			if at := slices.IndexFunc(segments[next:], func(s string) bool { return isFixed(i, s) }); at >= 0 {
				rest = append(rest, segments[next:next+at]...)
				next, found = next+at, true
			}
		} else {
			found = next < len(segments) && !slices.ContainsFunc([]int{segSubscriptions, segGroups, segProviders, segProvider, segType}, func(f int) bool {
				return f > i && isFixed(f, segments[next])
			})
		}
		if found {
			flush()
			next++
			continue
		}
		name := want
		if name == "" {
			name = placeholders[i]
		}
		stretch = append(stretch, name)
	}
	flush()
	return missing, append(rest, segments[next:]...)
}
