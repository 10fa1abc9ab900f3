"""The spool of a run's metrics, its mirror in MLflow, and the MLflow run itself."""
