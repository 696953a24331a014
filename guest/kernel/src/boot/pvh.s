# PVH entry (Xen's x86/HVM direct boot ABI), and that of Multiboot 2 (specification 2.0), by which GRUB
# boots the same file: 32-bit protected mode, flat segments, paging off, EBX = physical address of what the loader
# says. Turns on paging, with five levels where the CPU has them and the command line does not name "la57", and
# goes to the upper half. The number of levels cannot be changed while paging is on (Intel SDM vol. 3A, 4.1.1),
# so it is decided here.
#
# These first tables map the first 4 GiB three times: at 0, because the instruction after
# "mov cr0" is still fetched there; at the direct map, so that Rust code reaches physical memory
# at its final address from the start; and at the kernel image. The kernel builds its real tables
# with them, and they are gone when it loads its own root. With five levels three entries of a PML5 lead to
# one and the same PML4: what lies where in it is the same.

.set OFFSET, 0xffffffff80000000
.set PRESENT_WRITABLE, 0x3
.set PRESENT_WRITABLE_LARGE, 0x83

.section .note.pvh, "a", @note
    .align 4
    .long 4                             # name size
    .long 8                             # descriptor size
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start - OFFSET

.set MULTIBOOT_MAGIC, 0xe85250d6

.section .text.boot, "ax"
    .align 8
multiboot_header:
    .long MULTIBOOT_MAGIC
    .long 0                             # protected mode of i386
    .long multiboot_end - multiboot_header
    .long -(MULTIBOOT_MAGIC + (multiboot_end - multiboot_header))
    .word 6, 0                          # modules on pages
    .long 8
    .word 0, 0                          # the end
    .long 8
multiboot_end:

.code32
.global pvh_start, multiboot_start
multiboot_start:
    movl $1, boot_loader - OFFSET
    xorl %esp, %esp                     # the command line; there is no stack yet
    leal 8(%ebx), %edx                  # the first tag
look_for_command_line:
    movl (%edx), %eax                   # its type
    testl %eax, %eax                    # the end
    jz common_start
    cmpl $1, %eax
    je command_line_found
    movl 4(%edx), %eax                  # its size
    addl $7, %eax
    andl $-8, %eax
    addl %eax, %edx
    jmp look_for_command_line
command_line_found:
    leal 8(%edx), %esp
    jmp common_start
pvh_start:
    movl 24(%ebx), %esp                 # cmdline_paddr, below 4 GiB
common_start:
    cli
    cld
    movl $(boot_pgd - OFFSET), %ebp     # the root
    movl $0xa0, %edi                    # CR4: PAE, PGE
    movl %ebx, %esi                     # CPUID takes EBX
    xorl %eax, %eax
    cpuid
    cmpl $7, %eax
    jb levels_chosen
    movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    testl $0x10000, %ecx                # LA57
    jz levels_chosen
    movl %esp, %eax                     # the command line
    testl %eax, %eax
    jz five_levels
look_for_la57:
    movl (%eax), %edx
    testb %dl, %dl                      # the end
    jz five_levels
    cmpl $0x202d2d20, %edx              # " -- ": the program's words follow
    je five_levels
    cmpl $0x3735616c, %edx              # "la57"
    je levels_chosen
    incl %eax
    jmp look_for_la57
five_levels:
    movl $(boot_pml5 - OFFSET), %ebp
    orl $0x1000, %edi                   # LA57
levels_chosen:
    movl %esi, %ebx
    movl %cr4, %eax
    orl %edi, %eax
    movl %eax, %cr4
    movl %ebp, %cr3
    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $0x901, %eax                    # SCE, LME, NXE
    wrmsr
    movl %cr0, %eax
    orl $0x80010000, %eax               # PG, WP
    movl %eax, %cr0
    lgdt boot_gdt_pointer - OFFSET
    ljmp $0x08, $(long_mode - OFFSET)

.code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $upper_half, %rax
    jmp *%rax
upper_half:
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %ebx, %edi
    movl boot_loader, %esi
    call kernel_main
    ud2

.section .rodata.boot, "a"
    .align 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 64-bit code
    .quad 0x00cf93000000ffff            # data
    .quad 0x00cf9b000000ffff            # 32-bit code, for the other CPUs
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - OFFSET

# Who says what EBX points at: 0 PVH, 1 Multiboot.
.section .data.boot_loader, "aw"
    .align 4
boot_loader:
    .long 0

.section .data.boot_tables, "aw"
    .align 4096
.global boot_pgd, boot_pml5
boot_pgd:
    .quad boot_pdpt - OFFSET + PRESENT_WRITABLE
    .fill 272, 8, 0
    .quad boot_pdpt - OFFSET + PRESENT_WRITABLE         # 273: direct map
    .fill 237, 8, 0
    .quad boot_image_pdpt - OFFSET + PRESENT_WRITABLE   # 511: kernel image
boot_pml5:
    .quad boot_pgd - OFFSET + PRESENT_WRITABLE
    .fill 272, 8, 0
    .quad boot_pgd - OFFSET + PRESENT_WRITABLE          # 273: direct map
    .fill 237, 8, 0
    .quad boot_pgd - OFFSET + PRESENT_WRITABLE          # 511: kernel image
boot_pdpt:
    .quad boot_pd - OFFSET + PRESENT_WRITABLE
    .quad boot_pd - OFFSET + 0x1000 + PRESENT_WRITABLE
    .quad boot_pd - OFFSET + 0x2000 + PRESENT_WRITABLE
    .quad boot_pd - OFFSET + 0x3000 + PRESENT_WRITABLE
    .fill 508, 8, 0
boot_image_pdpt:
    .fill 510, 8, 0
    .quad boot_pd - OFFSET + PRESENT_WRITABLE
    .quad 0
boot_pd:
    .set address, 0
    .rept 2048
    .quad address + PRESENT_WRITABLE_LARGE
    .set address, address + 0x200000
    .endr

# The boot has a stack of its own: when it is done, the first process's registers are written to the
# CPU's kernel stack while the boot still runs.
.section .bss.stacks, "aw", @nobits
    .align 4096
    .skip 32768
boot_stack_top:
    .skip 32768
.global cpu_stack_top
cpu_stack_top:
