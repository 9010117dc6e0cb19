package controller

import "testing"

func TestWhatAPassTakesOffDoesNotStay(t *testing.T) {
	var d departures
	stays := func(when string, want map[string]bool) {
		t.Helper()
		for key, want := range want {
			if got := d.stays("pool", key); got != want {
				t.Errorf("%s: %s stays is %v", when, key, got)
			}
		}
	}
	stays("no pass", map[string]bool{"a": true, "b": true})
	d.begin("pool")
	stays("not decided", map[string]bool{"a": false, "b": false})
	if !d.stays("other", "a") {
		t.Error("a pass of one target counts for another")
	}
	d.decided("pool", map[string]bool{"a": true})
	stays("decided", map[string]bool{"a": false, "b": true})
	d.decided("pool", nil)
	stays("nobody knows", map[string]bool{"a": false, "b": false})
	d.decided("pool", map[string]bool{})
	stays("nothing goes", map[string]bool{"a": true, "b": true})
	d.end("pool")
	stays("ended", map[string]bool{"a": true, "b": true})
}
