#!/bin/sh
# The first process of a guest. Its root is the host's, read-only; what it writes goes to tmpfs, its disk and /mnt/out.
# From the kernel's command line, as environment: role, address, scratch (a host directory), python, project, job.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run HOME=/run PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
mount -t tmpfs tmpfs /var/lib/nfs
mkdir -p /mnt/out /mnt/net /run/lock /run/samba /run/sendsigs.omit.d /var/lib/nfs/sm /var/lib/nfs/sm.bak
mount -t hostfs none /mnt/out -o "$scratch/out"
echo "$scratch/modprobe" > /proc/sys/kernel/modprobe
"$scratch/modprobe" -a nfs nfsv3 nfsv4 nfsd cifs
mknod /run/line c 4 1
hostname "$role"
printf '127.0.0.1 localhost\n10.9.0.1 server\n10.9.0.2 one\n10.9.0.3 two\n' > /run/hosts
mount --bind /run/hosts /etc/hosts # sm-notify speaks to nobody whose address has no name
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
rpcbind -w
if [ "$role" = server ]; then
    mount -t ext4 /dev/ubda /mnt/net
    mkdir -p /mnt/net/export /mnt/net/nfs/v4recovery /mnt/net/nfs/nfsdcld /mnt/net/samba
    chmod 777 /mnt/net/export
    touch /mnt/net/nfs/etab /mnt/net/nfs/rmtab /mnt/net/nfs/state
    mkdir -p /mnt/net/nfs/sm /mnt/net/nfs/sm.bak
    mount --bind /mnt/net/nfs /var/lib/nfs
    mkdir -p /var/lib/nfs/rpc_pipefs
    mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
    mount -t nfsd nfsd /proc/fs/nfsd
    rpc.statd --no-notify
    nfsdcld
    exportfs -o rw,no_root_squash,insecure,fsid=0,no_subtree_check 10.9.0.0/24:/mnt/net/export
    rpc.nfsd -G 10 -L 10 4
    rpc.mountd
    [ -e /mnt/out/mute ] || sm-notify -f -v "$address" # NFSv3: without it the clients do not know that it booted, and that it forgot their locks
    smbd -D -s "$scratch/smb.conf" -l /run/samba
else
    state="/mnt/out/statd-$role" # survives the guest: whose locks a host that boots again must give back
    mkdir -p "$state/sm" "$state/sm.bak"
    mount --bind "$state" /var/lib/nfs
    rpc.statd --no-notify
    sm-notify -f -v "$address"
fi
cd "$project" && exec "$python" -m "tests.network.$job" "$role" > "/mnt/out/$role.log" 2>&1
