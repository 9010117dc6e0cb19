package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxBody bounds what is printed of an answer.
const maxBody = 64 << 10

// get prints status, content type and body of one answer. A token in it is
// replaced by its length.
func get(ctx context.Context, url string, headers []string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return fmt.Errorf("header %q is not Name: value", h)
		}
		req.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	fmt.Fprintf(out, "%d %s\n%s\n", resp.StatusCode, resp.Header.Get("Content-Type"), hideToken(body))
	return nil
}

func hideToken(body []byte) string {
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil {
		return string(body)
	}
	raw, ok := fields["access_token"].(string)
	if !ok {
		return string(body)
	}
	return strings.Replace(string(body), raw, fmt.Sprintf("(%d bytes)", len(raw)), 1)
}
