"""Scores of pictures: judged while others are drawn, kept picture by picture, and in PairComp's own format."""
