"""Figures of merit: spreads, bootstrap errors, scores, bins and accumulators of bounded memory."""
