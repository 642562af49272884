# A harness for Perl, written from docs/reference/child-protocol.md alone, for the tests.
#
# It has no `stream` and no `careful`, and says so.  A function gives undef, a text, or a list of
# texts (a line each) and [key, value] pairs.
use strict;
use warnings;
use Cwd qw(getcwd);
use JSON::PP ();

my $json = JSON::PP->new->utf8->allow_nonref;
my $home = getcwd();

# Frames are ours alone: the script finds an empty stdin, and its prints go to stderr.
open(my $in, '<&', \*STDIN) or die;
open(my $out, '>&', \*STDOUT) or die;
open(STDIN, '<', '/dev/null') or die;
open(STDOUT, '>&', \*STDERR) or die;
binmode $in;
binmode $out;

sub receive {
    my $head = readline($in);
    return unless defined $head;
    my ($name, $position, $count, $size) = split ' ', $head;
    my $payload = '';
    read($in, $payload, $size) == $size or die "the input ended within a frame" if $size;
    return ($name, $position, $count, $payload);
}

sub send_frame {
    my ($name, $position, $count, $payload) = @_;
    printf $out "%s %d %d %d\n", $name, $position, $count, length $payload;
    print $out $payload;
    $out->flush;
}

sub failed {
    my ($position, $kind, $message) = @_;
    chomp $message;
    utf8::decode($message);
    send_frame('failed', $position, 0,
        $json->encode({kind => $kind, message => $message, trace => ''}));
}

# Output that waits: text, or keys and values.
my ($text, @keys, @values) = ('');

sub flush_output {
    my ($position) = @_;
    send_frame('text', $position, 0, $text) if length $text;
    if (@keys) {
        my $lengths = pack 'V*', map { length } @keys, @values;
        send_frame('pairs', $position, scalar @keys, join '', $lengths, @keys, @values);
    }
    forget();
}

sub forget { ($text, @keys, @values) = (''); @values = () }

sub take {
    my ($position, $line_end, @given) = @_;
    for my $item (grep { defined } @given) {
        if (ref $item) {
            $text .= "\n" if length $text && $text !~ /\n\z/;
            flush_output($position) if length $text;
            push @keys, $item->[0];
            push @values, $item->[1];
        } else {
            flush_output($position) if @keys;
            my $open = $item !~ /\n\z/ && (@given > 1 || length $item);
            $text .= $item . ($open ? "\n" : $line_end);
        }
        flush_output($position) if length($text) >= 1 << 20 || @keys >= 1 << 14;
    }
}

send_frame('hello', 0, 0, '{"codecs": ["none"]}');
my (undef, undef, undef, $payload) = receive() or exit;
my $begin = $json->decode($payload);

my ($function, $final, $format) = (undef, undef, $begin->{records});
@ARGV = @{$begin->{arguments}};
eval {
    die "this harness has no stream and no careful\n" if $begin->{stream} || $begin->{careful};
    package main;
    do "$home/$begin->{script}";
    die $@ if $@;
    for my $name (@{$begin->{functions}}) { $function ||= main->can($name) }
    die "no function @{$begin->{functions}}\n" unless $function;
    my $init = $begin->{init} && main->can($begin->{init});
    $init->() if $init;
    $final = $begin->{final} && main->can($begin->{final});
    1;
} or do { failed(0, 'load', $@); exit };

my %parse = (
    text => sub { $_[0] },
    json => sub { $json->decode($_[0]) },
    'uuid-json' => sub { $_[0] =~ /\A(.{36})\t(.*)\z/s or die; ($1, $json->decode($2)) },
);

sub map_file {
    my ($position, $path) = @_;
    my %done = (records => 0, mapped => 0, bad => 0, decoded_bytes => 0, sample => '');
    eval {
        open(my $file, '<:raw', $path =~ m{^/} ? $path : "$home/$path") or die "$path: $!";
        while (defined(my $line = readline $file)) {
            $done{records} += 1;
            $done{decoded_bytes} += length $line;
            $line =~ s/\n\z//;
            my @record = eval { $parse{$format}->($line) };
            if ($@) {
                $done{bad} += 1;
                $done{sample} ||= "line $done{records}: not $format";
                next;
            }
            my @words = $format eq 'uuid-json' ? ($record[0], $path, $record[1]) : ($path, @record);
            take($position, '', $function->(@words));
            $done{mapped} += 1;
        }
        1;
    } or do {
        my $error = $@;
        chomp $error;
        forget();
        return failed($position, 'raised', "$error at line $done{records}");
    };
    $text .= "\n" if length $text && $text !~ /\n\z/;
    flush_output($position);
    send_frame('done', $position, 0, $json->encode(\%done));
}

my ($key, @group) = ();
my ($groups, $rows, $size) = (0, 0, 0);

sub close_group {
    return unless defined $key;
    $groups += 1;
    take(0, "\n", $function->($key, \@group));
    ($key, @group) = ();
    $size = 0;
}

sub rows {
    my ($count, $payload) = @_;
    my @lengths = unpack 'V' . 2 * $count, $payload;
    my $at = 8 * $count;
    my @items = map { my $item = substr $payload, $at, $_; $at += $_; $item } @lengths;
    for my $row (0 .. $count - 1) {
        close_group() if defined $key && $key ne $items[$row];
        $key = $items[$row];
        push @group, $items[$count + $row];
        $size += 64 + length $group[-1];
        return failed(0, 'memory', "the values of key '$key'")
            if $begin->{memory} && $size > $begin->{memory};
    }
    $rows += $count;
}

while (my ($name, $position, $count, $payload) = receive()) {
    eval {
        if ($name eq 'file') {
            my ($codec, $path) = split /\n/, $payload, 2;
            map_file($position, $path);
        } elsif ($name eq 'pairs') {
            rows($count, $payload);
        } elsif ($name eq 'flush') {
            close_group();
            flush_output(0);
            send_frame('flushed', $groups, $rows, '');
            ($groups, $rows) = (0, 0);
        } elsif ($name eq 'end') {
            if (eval { take(0, $begin->{role} eq 'map' ? '' : "\n", $final->()) if $final; 1 }) {
                $text .= "\n" if length $text && $text !~ /\n\z/;
                flush_output(0);
                send_frame('ended', 0, 0, '');
            } else {
                failed(0, 'final', $@);
            }
        }
        1;
    } or failed($position, 'raised', $@);
}
