-- Run once, when PostgreSQL makes its data: users of MLflow have a database of their own.
CREATE DATABASE mlflow_auth OWNER mlflow;
