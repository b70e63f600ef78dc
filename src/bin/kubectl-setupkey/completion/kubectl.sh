#!/bin/sh
# Completes `kubectl setupkey` for kubectl 1.26 or later, which runs this file as kubectl_complete-setupkey from the PATH.
exec kubectl-setupkey __complete "$@"
