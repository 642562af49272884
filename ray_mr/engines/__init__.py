"""Where attempts and reducers run: the engine contract, the local engine, the Ray engine."""
