"""The program ``ray-mr``; ``cli/commands/`` has a module for each command."""
