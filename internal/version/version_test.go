package version

import "testing"

func TestUserAgent(t *testing.T) {
	tests := map[string]struct{ custom, want string }{
		"the form of the 1.8 releases": {"", "aad-pod-identity/MIC/dev/unknown/unknown"},
		"a custom text follows":        {" fleet-7 ", "aad-pod-identity/MIC/dev/unknown/unknown fleet-7"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := UserAgent("mic", tc.custom); got != tc.want {
				t.Errorf("UserAgent = %q, want %q", got, tc.want)
			}
		})
	}
}
