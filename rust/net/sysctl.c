// SPDX-License-Identifier: GPL-2.0
/*
 * net.squall.*: the registration.  A ctl_table is C; its rows come from the
 * table of settings in rust/settings.rs, through rust/net/sysctl.rs.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <net/net_namespace.h>

#include "bindings.h"

/*
 * As proc_douintvec_minmax(), and a refused value is named in the log: the
 * errno alone does not say what the range would have been.
 */
static int squall_douintvec(const struct ctl_table *table, int write,
			    void *buffer, size_t *lenp, loff_t *ppos)
{
	size_t len = *lenp;
	char text[24];
	int err;

	if (write) {
		strscpy(text, buffer, min(len + 1, sizeof(text)));
		strim(text);
	}
	err = proc_douintvec_minmax(table, write, buffer, lenp, ppos);
	if (err && write)
		pr_warn("net.squall.%s: '%s' refused, the range is %u to %u\n",
			table->procname, text,
			*(const unsigned int *)table->extra1,
			*(const unsigned int *)table->extra2);
	return err;
}

static struct ctl_table *squall_table;
static struct ctl_table_header *squall_header;

/* Makes the table of @count rows, which have to stay, and registers it. */
int squall_sysctl_register(const struct squall_setting *rows, u32 count)
{
	u32 i;

	squall_table = kcalloc(count, sizeof(*squall_table), GFP_KERNEL);
	if (!squall_table)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		squall_table[i] = (struct ctl_table){
			.procname = rows[i].name,
			.data = rows[i].value,
			.maxlen = sizeof(u32),
			.mode = 0644,
			.proc_handler = squall_douintvec,
			.extra1 = (void *)&rows[i].least,
			.extra2 = (void *)&rows[i].most,
		};
	}
	squall_header = register_net_sysctl_sz(&init_net, "net/squall",
					       squall_table, count);
	if (!squall_header) {
		kfree(squall_table);
		return -ENOMEM;
	}
	return 0;
}

void squall_sysctl_unregister(void)
{
	unregister_net_sysctl_table(squall_header);
	kfree(squall_table);
}
