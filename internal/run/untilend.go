package run

import "context"

// UntilEnd runs start, which ends some time after ctx does, and returns what it
// returns. If ctx ends before begun is closed, start is not waited for.
//
// That is for managers of controller-runtime (seen in v0.25.2): one whose context ends
// before its caches are filled waits for them for ever, so that a process that is told
// to stop while the API server is away would not.
func UntilEnd(ctx context.Context, begun <-chan struct{}, start func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case <-begun:
		return <-ended
	default:
		return ctx.Err()
	}
}
