"""Objects of web servers, read only: the only room that imports urllib3."""
