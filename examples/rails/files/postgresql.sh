#!/bin/sh -e
# Makes the databases that are named and not there yet.
for name; do
  psql -d postgres -tAc 'SELECT datname FROM pg_database' | grep -qx "$name" || createdb "$name"
done
