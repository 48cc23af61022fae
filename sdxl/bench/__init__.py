"""The harness around MLPerf LoadGen: what it drives, how it is set, what it wrote."""
