"""Other names of the public datasets' folders below a data root, and their expected content."""

from __future__ import annotations

from reid.datasets.sources import cuhk03, ilids_vid, ls_vid, market1501, msmt17, prid2011, veri776

PLACES = {
    "market1501": (("Market-1501-v15.09.15", "Market-1501", "Market1501", "market"), market1501.SHAPE),
    "msmt17": (("MSMT17_V1", "MSMT17_V2"), msmt17.SHAPE),
    "cuhk03": (("cuhk03-np", "CUHK03-NP"), cuhk03.SHAPE),
    "cuhk03-labeled": (("cuhk03", "CUHK03", "cuhk03-np", "CUHK03-NP"), cuhk03.SHAPE),
    "ilids-vid": (("iLIDS-VID", "i-LIDS-VID", "ilidsvid"), ilids_vid.SHAPE),
    "prid2011": (("prid", "prid_2011"), prid2011.SHAPE),
    "ls-vid": (("LSVID", "lsvid"), ls_vid.SHAPE),
    "veri776": (("VeRi", "VeRi-776", "veri"), veri776.SHAPE),
}
