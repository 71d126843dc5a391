"""What the pages of runs and sweeps share: the document, tables, charts as SVG, and the colour and mark of each method."""
