# SPDX-License-Identifier: GPL-2.0
"""What the selftests share: KTAP output, the module and its configuration, peers, namespaces, base lines."""
