#!/bin/sh
# Makes the database of the service, and a role that owns one schema in it and nothing else. Run once, as a superuser: the image of
# Postgres does so with an empty volume; elsewhere set TASKWIRE_DB_PASSWORD and what psql reads (PGHOST, PGPORT, PGUSER).
set -eu
: "${TASKWIRE_DB_PASSWORD:?}"
psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv password TASKWIRE_DB_PASSWORD
CREATE ROLE taskwire LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE taskwire;
REVOKE ALL ON DATABASE taskwire FROM PUBLIC;
GRANT CONNECT ON DATABASE taskwire TO taskwire;
ALTER ROLE taskwire IN DATABASE taskwire SET search_path = taskwire;
\connect taskwire
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA taskwire AUTHORIZATION taskwire;
SQL
