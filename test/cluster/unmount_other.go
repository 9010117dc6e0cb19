//go:build !linux

package cluster

import "errors"

func unmountBelow(string) error { return errors.ErrUnsupported }

func shareMounts(string) error { return errors.ErrUnsupported }
