// Command webhook is cert-manager's admission webhook. It takes the flags of
// cert-manager's chart.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	certmanagerwebhook "github.com/cert-manager/cert-manager/internal/webhook"
	"github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/options"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "webhook:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	config, err := options.NewWebhookConfiguration()
	if err != nil {
		return fmt.Errorf("building the default configuration: %w", err)
	}
	flags := pflag.NewFlagSet("webhook", pflag.ContinueOnError)
	options.AddConfigFlags(flags, config)
	flags.ParseErrorsAllowlist.UnknownFlags = true // klog's
	if err := flags.Parse(args); err != nil {
		return err
	}
	config.MetricsListenAddress = "0"
	log := klog.Background()
	ctrl.SetLogger(log)
	server, err := certmanagerwebhook.NewCertManagerWebhookServer(log, *config)
	if err != nil {
		return fmt.Errorf("building the server: %w", err)
	}
	return server.Run(logs.NewContext(ctx, log))
}
