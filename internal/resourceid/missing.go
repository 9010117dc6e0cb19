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

// complete finds the one slash or fixed segment that seven segments lack. It
// returns nil, and records nothing, unless exactly one correction exists.
func (d *diagnosis) complete(segments []string) []string {
	type fix struct {
		whole []string
		how   diagnosis
	}
	var fixes []fix
	try := func(whole []string, record func(*diagnosis)) {
		var how diagnosis
		record(&how)
		aligned := how.align(whole)
		if _, ok := match("/"+strings.Join(aligned, "/"), false); !ok || how.lost {
			return
		}
		if !slices.ContainsFunc(fixes, func(f fix) bool { return slices.Equal(f.whole, aligned) }) {
			fixes = append(fixes, fix{aligned, how})
		}
	}
	for i, segment := range segments {
		for _, at := range cuts(i, segment) {
			left, right := segment[:at], segment[at:]
			try(slices.Concat(segments[:i], []string{left, right}, segments[i+1:]), func(how *diagnosis) {
				how.fixable(MissingSlash, segment, "no slash between %q and %q", left, right)
			})
		}
	}
	for i, want := range fixed {
		// A slash that explains it all comes first: "rg-1providers" is not a
		// resource group. Where the segment stands already, what is missing is
		// the value.
		if len(fixes) > 0 || want == "" || slices.ContainsFunc(segments, func(s string) bool { return isFixed(i, s) }) {
			continue
		}
		try(slices.Concat(segments[:i], []string{want}, segments[i:]), func(how *diagnosis) {
			how.fixable(MissingSegment, want, "segment %q is missing", want)
		})
	}
	if len(fixes) != 1 {
		return nil
	}
	d.defects = append(d.defects, fixes[0].how.defects...)
	return fixes[0].whole
}

// cuts returns where segment number i could be two that lack the slash between
// them: after the fixed segment of place i, or before that of the next.
func cuts(i int, segment string) []int {
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
