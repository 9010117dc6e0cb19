package compute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// apply sends the changes in portions that ARM takes.
func (p *pass) apply(ctx context.Context, adds, removes []string) error {
	for len(adds)+len(removes) > 0 {
		a := adds[:min(len(adds), maxPerRequest)]
		r := removes[:min(len(removes), maxPerRequest-len(a))]
		if err := p.send(ctx, slices.Clone(a), slices.Clone(r), nil); err != nil {
			return err
		}
		adds, removes = adds[len(a):], removes[len(r):]
	}
	return nil
}

// send sends one PATCH. An identity that ARM refuses is taken out and recorded
// as failed, and the rest is sent again: one team's mistake must not hold up
// the others. If ARM does not name the culprit it is hunted by halving.
func (p *pass) send(ctx context.Context, adds, removes []string, h *hunt) error {
	for {
		if err := p.refresh(ctx); err != nil {
			return err
		}
		body, changes := p.s.known.patchFor(adds, removes)
		if !changes {
			return nil
		}
		err := p.update(ctx, body, adds, removes)
		if err == nil {
			if h != nil {
				h.accepted = true
			}
			return nil
		}
		culprits, bad := arm.IsBadIdentities(err)
		switch {
		case arm.IsDeleting(err), arm.IsNotFound(err):
			return p.going(ctx, err)
		case !bad && !arm.IsInvalid(err):
			return err
		case len(culprits) == 0 && h == nil:
			return p.hunt(ctx, adds, removes, err)
		case len(culprits) == 0:
			return p.halve(ctx, adds, removes, err, h)
		}
		var badAdds, badRemoves []string
		adds, badAdds = without(adds, culprits)
		removes, badRemoves = without(removes, culprits)
		for _, id := range badAdds {
			p.failed(ctx, id, err, refusal{named: true, adding: true})
		}
		for _, id := range badRemoves {
			p.failed(ctx, id, err, refusal{named: true})
		}
		if len(badAdds)+len(badRemoves) > 0 {
			continue
		}
		// ARM complains of something that is there already. If it did so after it had
		// taken the PATCH, what is there has to be read again.
		if err := p.refresh(ctx); err != nil {
			return err
		}
		rotten := p.rotten(culprits, err, removes)
		if len(rotten) == 0 {
			return refusalError{err}
		}
		for _, id := range rotten {
			if wanted, ok := p.want[resourceid.Key(id)]; ok {
				p.failed(ctx, wanted, err, refusal{named: true, adding: true})
			}
		}
		if len(adds)+len(removes)+len(rotten) <= maxPerRequest {
			removes = append(removes, rotten...)
		} else if err := p.apply(ctx, nil, rotten); err != nil {
			return err
		}
	}
}

// update sends one PATCH and keeps what is known of the target in step.
func (p *pass) update(ctx context.Context, body patch, adds, removes []string) error {
	if err := p.e.confirm(ctx, p.s, p.target); err != nil {
		return err
	}
	p.asked = true
	answer, started, err := p.client.update(ctx, p.target, body, p.s.known.etag)
	if err == nil || started {
		for _, id := range adds {
			delete(p.s.claimed, resourceid.Key(id))
		}
	}
	if err == nil {
		p.s.known.applied(adds, removes, answer)
		p.s.learnt = p.e.options.Now()
		p.succeeded(adds, removes)
		return nil
	}
	if started {
		// Nobody knows what of it was done.
		p.s.known = nil
	}
	return fmt.Errorf("updating %s: %w", p.target, err)
}

// going deals with a PATCH that ARM refused because the target, its group or
// something else does not exist, or not for long. That the target is gone is
// believed only of a GET: it would release all that is on it.
func (p *pass) going(ctx context.Context, refused error) error {
	if err := p.read(ctx); err != nil {
		return err
	}
	if !arm.IsDeleting(refused) {
		return refused
	}
	p.s.known.deleting = true // its group is
	return errStop
}

// rotten returns those of the culprits that no longer exist in Azure, though
// they are on the target and MIC put them there. As long as they stay ARM refuses
// every change. An identity that merely lost its role assignment works on, and
// is left alone, as is one whose removal ARM has refused.
func (p *pass) rotten(culprits []string, err error, removes []string) []string {
	var e *arm.Error
	if !errors.As(err, &e) || e.Missing != nil || e.Code == "LinkedAuthorizationFailed" || p.s.known == nil {
		return nil
	}
	var ids []string
	for key := range p.s.ledger.Added {
		there, ok := p.s.known.identities[key]
		if ok && arm.Blames(culprits, there.id) && !p.immutable(there) && !slices.Contains(removes, there.id) && !p.waits(key) {
			ids = append(ids, there.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// hunt is the search for the culprits of a PATCH that ARM refused without naming
// one.
type hunt struct {
	// accepted: ARM took a part of it.
	accepted bool
	// alone are those that ARM refused by themselves.
	alone []suspect
}

type suspect struct {
	id     string
	adding bool
	err    error
}

// maxSuspects is how many identities ARM may refuse by themselves before the
// target is held to be at fault, as long as it took none. They are tried after
// all others the next time, so a good one is found in the end.
const maxSuspects = 4

var errEnough = errors.New("too many refusals")

// hunt finds the culprits by halving. If ARM takes nothing at all, it is the
// target that is at fault and not every team that wants something of it.
func (p *pass) hunt(ctx context.Context, adds, removes []string, cause error) error {
	h := &hunt{}
	err := p.halve(ctx, adds, removes, cause, h)
	if !h.accepted && len(adds)+len(removes) > 1 && (err == nil || errors.Is(err, errEnough)) && len(h.alone) > 1 {
		for _, s := range h.alone {
			p.s.suspects[resourceid.Key(s.id)]++
		}
		return refusalError{cause}
	}
	for _, s := range h.alone {
		p.failed(ctx, s.id, s.err, refusal{adding: s.adding})
	}
	return err
}

// halve sends both halves.
func (p *pass) halve(ctx context.Context, adds, removes []string, cause error, h *hunt) error {
	if len(adds)+len(removes) == 1 {
		h.alone = append(h.alone, suspect{slices.Concat(adds, removes)[0], len(adds) == 1, cause})
		if !h.accepted && len(h.alone) >= maxSuspects {
			return errEnough
		}
		return nil
	}
	if len(adds) > 0 && len(removes) > 0 {
		if err := p.send(ctx, adds, nil, h); err != nil {
			return err
		}
		return p.send(ctx, nil, removes, h)
	}
	a, r := len(adds)/2, len(removes)/2
	if err := p.send(ctx, slices.Clone(adds[:a]), slices.Clone(removes[:r]), h); err != nil {
		return err
	}
	return p.send(ctx, slices.Clone(adds[a:]), slices.Clone(removes[r:]), h)
}

// without splits ids into those not blamed and those blamed.
func without(ids, culprits []string) (rest, blamed []string) {
	for _, id := range ids {
		if arm.Blames(culprits, id) {
			blamed = append(blamed, id)
		} else {
			rest = append(rest, id)
		}
	}
	return rest, blamed
}

func (p *pass) succeeded(adds, removes []string) {
	clear(p.s.suspects)
	for _, id := range removes {
		delete(p.s.failures, resourceid.Key(id))
	}
	for _, id := range adds {
		key := resourceid.Key(id)
		delete(p.s.failures, key)
		p.e.wake(p.e.breaker.succeed(key, p.key))
	}
}

// refusal says what ARM refused.
type refusal struct {
	named  bool // ARM itself blamed the identity
	adding bool // else removing
}

// failed records that ARM refused an identity. One that it names while it is
// added is refused everywhere; any other may be this target's own matter.
func (p *pass) failed(ctx context.Context, id string, err error, what refusal) {
	key, now := resourceid.Key(id), p.e.options.Now()
	f := failureOf(id, err)
	if what.adding {
		p.e.breaker.refuse(key, p.key, f, what.named, now)
	}
	if !what.adding || !what.named {
		f.Attempts = p.s.failures[key].Attempts + 1
		f.RetryAt = now.Add(p.e.options.Jitter(p.e.options.Backoff.after(f.Attempts)))
		p.s.failures[key] = f
	}
	p.fresh[key] = true
	if told, open := p.e.breaker.look(key, p.key, now); open && what.adding {
		f = told
	}
	klog.FromContext(ctx).Error(err, fmt.Sprintf("removing %s from ID list since it is erroneous", id),
		logkey.Target, p.target.String(), logkey.Attempt, f.Attempts, logkey.RetryAfter, f.RetryAt.Sub(now).Round(time.Second).String())
}
