package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/pflag"
)

type expectOptions struct {
	clientID string
	lasting  time.Duration
	pause    time.Duration
}

func (o *expectOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.clientID, "client-id", "", "the identity that each token must be of; it is not asked for by it")
	fs.DurationVar(&o.lasting, "for", 5*time.Second, "how long to ask, from the first token on")
	fs.DurationVar(&o.pause, "pause", 200*time.Millisecond, "between two requests")
}

// expect asks for tokens without naming an identity, and fails when one is not of
// the identity that is expected, or when none comes after the first one.
func expect(ctx context.Context, o expectOptions, out io.Writer) error {
	const patience = time.Minute
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	pause := time.NewTicker(o.pause)
	defer pause.Stop()
	end := time.Now().Add(patience)
	for n := 0; ; {
		body, err := getToken(ctx, tr)
		switch {
		case err == nil:
			whose, err := appID(body)
			if err != nil {
				return err
			}
			if whose != o.clientID {
				return fmt.Errorf("WRONG TOKEN: of %s, not of %s", whose, o.clientID)
			}
			if n++; n == 1 {
				end = time.Now().Add(o.lasting)
			}
		case n > 0 || time.Now().After(end) || ctx.Err() != nil:
			return fmt.Errorf("after %d tokens: %w", n, err)
		}
		if n > 0 && time.Now().After(end) {
			fmt.Fprintf(out, "%d tokens\n", n)
			return nil
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// appID is whose a token is, as it says itself.
func appID(body []byte) (string, error) {
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(answer.AccessToken, claims); err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	whose, ok := claims["appid"].(string)
	if !ok {
		return "", errors.New("the token does not say whose it is")
	}
	return whose, nil
}
