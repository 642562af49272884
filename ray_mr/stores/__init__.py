"""Local files, web servers, the registry of stores, and results written to them."""
