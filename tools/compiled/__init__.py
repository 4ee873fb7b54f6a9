"""Native modules of some sources, by mypyc: docs/adr/0021-native-modules-as-an-option.md."""
