"""Reports: means with intervals, agreement of judges, tables, and a page that opens offline."""
