//! Signal generator.
