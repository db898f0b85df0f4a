#!/bin/sh
# Puts a first row into the table, by the project's own model.
cd /workspace/app
~/venv/bin/python manage.py shell -c '
import sys
from wishes.models import Wish
Wish.objects.create(text=sys.stdin.read().strip())
' <<END
$1
END
