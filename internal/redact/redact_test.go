package redact

import "testing"

func TestClientID(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"a client ID keeps its ends":       {"7eb60000-0000-0000-0000-00000000a6a9", "7eb6##### REDACTED #####a6a9"},
		"nothing stays nothing":            {"", ""},
		"a short value is hidden entirely": {"12345678", "##### REDACTED #####"},
		"nine characters still hide one":   {"123456789", "1234##### REDACTED #####6789"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := ClientID(tc.in); got != tc.want {
				t.Errorf("ClientID(%q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}
