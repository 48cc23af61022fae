"""The winner as another tool's files.   python -m sdxl pack RECORD --to FOLDER --as diffusers"""
