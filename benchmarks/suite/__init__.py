"""The suite behind `python -m benchmarks`: is end-to-end fine-tuning worth it, on these pictures?

- `grid`: what is asked, cell by cell, and the pictures that each cell trains on;
- `cell`: one cell, measured in a process of its own;
- `runner`: runs what is missing, cell after cell, and can be interrupted at any instant;
- `report`: means, intervals, sentences and tables of what was measured;
- `plots`: the same as pictures.
"""
