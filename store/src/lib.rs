//! Where chunks come from and land: file trees, staging, catalogue
