#!/bin/sh -e
# The account and the databases of Active Record's tests.
mysql <<SQL
CREATE USER IF NOT EXISTS 'rails'@'localhost';
CREATE DATABASE IF NOT EXISTS activerecord_unittest DEFAULT CHARACTER SET utf8mb4;
CREATE DATABASE IF NOT EXISTS activerecord_unittest2 DEFAULT CHARACTER SET utf8mb4;
GRANT ALL PRIVILEGES ON activerecord_unittest.* TO 'rails'@'localhost';
GRANT ALL PRIVILEGES ON activerecord_unittest2.* TO 'rails'@'localhost';
SQL
