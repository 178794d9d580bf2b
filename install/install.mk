# Installing beside the distribution's kernels, and the Debian package. Included by the top Makefile.
# DESTDIR: where the tree begins; PREFIX: of the program and its manual page. The boot loader's places are fixed.

PREFIX = /usr/local
INSTALL = install
INSTALLED = $(DESTDIR)/boot/strata.elf $(DESTDIR)$(PREFIX)/bin/strata-stat $(DESTDIR)$(PREFIX)/share/man/man1/strata-stat.1 \
	$(DESTDIR)/etc/grub.d/20_linux_strata $(DESTDIR)/etc/default/grub.d/strata.cfg

.PHONY: install uninstall deb test-full-debian
install: $(BUILD)/strata.elf $(BUILD)/strata-stat ## put Strata beside the system's kernels, and its lines into GRUB's menu (DESTDIR= PREFIX=)
	$(INSTALL) -d $(sort $(dir $(INSTALLED)))
	$(INSTALL) -m 644 $(BUILD)/strata.elf $(DESTDIR)/boot/strata.elf
	$(INSTALL) -m 755 $(BUILD)/strata-stat $(DESTDIR)$(PREFIX)/bin/strata-stat
	$(INSTALL) -m 644 install/strata-stat.1 $(DESTDIR)$(PREFIX)/share/man/man1/strata-stat.1
	$(INSTALL) -m 755 install/20_linux_strata $(DESTDIR)/etc/grub.d/20_linux_strata
	@[ -e $(DESTDIR)/etc/default/grub.d/strata.cfg ] || (set -x; $(INSTALL) -m 644 install/strata.cfg $(DESTDIR)/etc/default/grub.d/strata.cfg)
	@[ -n "$(DESTDIR)" ] || echo "now run update-grub: its menu gets \"GNU/Linux, with Strata\""

uninstall: ## take away what make install has put there (DESTDIR= PREFIX=)
	rm -f $(INSTALLED)
	@[ -n "$(DESTDIR)" ] || echo "now run update-grub"

deb: ## build the Debian package build/deb/strata_*.deb
	@bench/setup.sh --for deb
	@install/deb $(BUILD)

test-full-debian: deb ## an installed Debian on a disk of its own, with and without Strata's package (root; some minutes)
	@bench/setup.sh --for debian
	@bench/debian/run
