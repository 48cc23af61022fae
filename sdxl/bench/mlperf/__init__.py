"""MLPerf's rules: rounds, verdict, audits, submission."""
