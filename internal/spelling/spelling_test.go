package spelling

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"clientID", "clientPassword", "resourceID", "replicas", "tenantID", "type", "name", "namespace"}
	tests := map[string]struct{ word, want string }{
		"a letter missing":               {"resorceID", "resourceID"},
		"a letter too many":              {"clientIDs", "clientID"},
		"a wrong letter":                 {"tenentID", "tenantID"},
		"two letters swapped":            {"cleintID", "clientID"},
		"a separator in between":         {"client-password", "clientPassword"},
		"capitals do not count":          {"RESOURCE_ID", "resourceID"},
		"the word itself":                {"type", "type"},
		"one slip in a short word":       {"tpye", "type"},
		"two slips in a short word":      {"tip", ""},
		"another word":                   {"secretName", ""},
		"nothing":                        {"", ""},
		"a word of the same few letters": {"id", ""},
		"a very long word":               {strings.Repeat("resourceID", 100000), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Nearest(tt.word, known); got != tt.want {
				t.Errorf("Nearest(%.40q) = %q, want %q", tt.word, got, tt.want)
			}
		})
	}
	if got := Nearest("bat", []string{"cat", "rat"}); got != "" {
		t.Errorf("Nearest picks %q of two equally near words", got)
	}
}
