"""Labelling many pictures: a folder, lists or shards in; JSONL, COCO or Parquet out; resumable, on many processes."""
