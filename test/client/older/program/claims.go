package program

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// printClaims writes the claims that say whose a token is and what for, never the token.
func printClaims(token string, out io.Writer) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("what was received is no token")
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	var claims struct {
		AppID string `json:"appid"`
		Aud   string `json:"aud"`
	}
	if err := json.Unmarshal(data, &claims); err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(claims)
}
