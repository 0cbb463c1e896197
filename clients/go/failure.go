package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// patience is how long a call is repeated at most.
const patience = 30 * time.Second

// failure is what boxoffice says about a failed call: programs branch on the reason, people read the message.
type failure struct {
	code     codes.Code
	message  string
	reason   string
	metadata map[string]string
	// retryDelay is how long to wait before the same call may succeed; 0 where waiting does not help.
	retryDelay time.Duration
	// violations say what is wrong with each field of an ill-formed request.
	violations map[string]string
}

// failureOf reads the details of the error of a call.
func failureOf(err error) failure {
	st := status.Convert(err)
	f := failure{code: st.Code(), message: st.Message(), violations: map[string]string{}}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			f.reason, f.metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			f.retryDelay = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				f.violations[violation.GetField()] = violation.GetDescription()
			}
		}
	}
	return f
}

func (f failure) String() string {
	reason := f.reason
	if reason == "" {
		reason = "(no reason)"
	}
	return fmt.Sprintf("%v %s: %s", f.code, reason, f.message)
}

// patiently makes a call, again and again while its failure says when to retry.
func patiently(ctx context.Context, call func() error) error {
	giveUpAt := time.Now().Add(patience)
	for {
		err := call()
		if err == nil {
			return nil
		}
		f := failureOf(err)
		if f.retryDelay == 0 || time.Now().Add(f.retryDelay).After(giveUpAt) {
			return err
		}
		fmt.Printf("   waiting %.1f s, since the call failed with %s\n", f.retryDelay.Seconds(), f.reason)
		if err := sleep(ctx, f.retryDelay); err != nil {
			return err
		}
	}
}

// sleep waits, unless the context ends first.
func sleep(ctx context.Context, delay time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay):
		return nil
	}
}
