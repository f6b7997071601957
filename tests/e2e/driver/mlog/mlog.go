// Package mlog replaces the logging package that the driver imports and that no public module proxy has.
// It has the functions that the driver calls, over klog.
package mlog

import (
	"context"
	"os"

	"k8s.io/klog/v2"
)

// LogFormat is how lines are written. Only text is written here.
type LogFormat string

const (
	FormatJSON LogFormat = "json"
	FormatText LogFormat = "text"
)

// Setup returns the function that flushes what is not written yet.
func Setup() func() { return klog.Flush }

// ValidateAndSetKlogLevelAndFormatGlobally has nothing to do: klog's own flags have set the level.
func ValidateAndSetKlogLevelAndFormatGlobally(context.Context, klog.Level, LogFormat) error {
	return nil
}

func Error(message string, err error, keysAndValues ...any) {
	klog.ErrorS(err, message, keysAndValues...)
}

func Fatal(err error) {
	klog.ErrorS(err, "fatal")
	klog.Flush()
	os.Exit(1)
}
