package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// teller prints the steps and counts how they went.
type teller struct {
	out            io.Writer
	stack          *stack.Stack
	step           int
	passed, failed int
}

// begin prints the heading of a step.
func (t *teller) begin(title string) {
	t.step++
	fmt.Fprintf(t.out, "\n── %d. %s\n", t.step, title)
}

// check prints how a step went: ✓, or ✗ with the reason.
func (t *teller) check(what string, err error) bool {
	if err != nil {
		t.failed++
		fmt.Fprintf(t.out, "✗ %s: %v\n", what, err)
		return false
	}
	t.passed++
	fmt.Fprintf(t.out, "✓ %s\n", what)
	return true
}

// run prints a command and its output as a terminal would show them.
func (t *teller) run(ctx context.Context, args ...string) (stack.Result, error) {
	fmt.Fprintf(t.out, "$ %s\n", shellLine(args))
	r, err := t.stack.Run(ctx, stack.Command{Args: args, Progress: t.out})
	if r.Output != "" && !strings.HasSuffix(r.Output, "\n") {
		fmt.Fprintln(t.out)
	}
	return r, err
}

// expect runs a command that must succeed, with the given texts in its output.
func (t *teller) expect(ctx context.Context, what string, args []string, texts ...string) bool {
	r, err := t.run(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d", r.Code)
	}
	return t.check(what, firstError(err, missing(r.Output, texts)))
}

// refuse runs a command that must fail, with the given texts in its output.
func (t *teller) refuse(ctx context.Context, what string, args []string, texts ...string) bool {
	r, err := t.run(ctx, args...)
	if err == nil && r.Code == 0 {
		err = errors.New("the command succeeded")
	}
	return t.check(what, firstError(err, missing(r.Output, texts)))
}

// show prints a file of the demo, so that the reader sees what is applied.
func (t *teller) show(path string) {
	fmt.Fprintf(t.out, "$ cat %s\n", path)
	data, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(t.out, err)
		return
	}
	fmt.Fprintf(t.out, "%s", data)
}

func missing(output string, texts []string) error {
	flat := strings.Join(strings.Fields(output), " ")
	for _, text := range texts {
		if !strings.Contains(flat, text) {
			return fmt.Errorf("the output does not say %q", text)
		}
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// shellLine quotes arguments so that the line can be pasted into a shell.
func shellLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " '\"$&|;<>()*?[]{}\\`") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}
