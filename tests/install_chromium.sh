#!/usr/bin/env bash
# Installs Chromium, which the tests of pages drive, where this user may; else says how. Without it those tests
# are skipped.
set -euo pipefail

for path in "${LOST_REG_CHROMIUM:-}" chromium chromium-browser google-chrome; do
    [ -n "$path" ] && type -P "$path" >/dev/null && exit
done

if [ "$(id -u)" = 0 ] && type -P apt-get >/dev/null; then
    echo "Installing Chromium for the tests of pages, which takes about a minute."
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; then exit; fi
fi
echo "There is no Chromium: the tests of pages are skipped. Install it with your system's packages (on Debian:" >&2
echo "apt-get install chromium) or by \`playwright install chromium\`, or name one in LOST_REG_CHROMIUM." >&2
exit 1
